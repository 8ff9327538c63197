"""How fast it is: floors, peers and the connector, measured in one run on one machine. See docs/speed.md."""
