"""The commands of `planproof`, one file each."""
