"""The faces of planproof: command line and HTTP. The composition root; everything else is imported from here."""
