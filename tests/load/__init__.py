"""`igsp serve` under load, under attack and when something breaks: real processes, real sockets on loopback."""
