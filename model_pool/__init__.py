"""Workers that hold weights, and the gateway's side of them."""
