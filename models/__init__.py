"""Networks and maths: no files, no flags."""
