"""How a Ray cluster is obtained or started."""
