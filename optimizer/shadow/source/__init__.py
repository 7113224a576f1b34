"""What is read of a source, and how: by planproof itself, or by the script that a DBA runs."""
