"""What comes to a gateway's ports and is no request: sent by the thousand, its end looked at."""
