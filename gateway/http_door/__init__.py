"""The door for clients that speak OpenAI's HTTP API, over the same walk as gRPC's."""
