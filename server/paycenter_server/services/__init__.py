"""The use cases. The only owners of transactions; each follows the ten money rules of ARCHITECTURE.md."""
