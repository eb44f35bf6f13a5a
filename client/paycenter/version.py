"""The version of PayCenter: of the client, of the server and of the contract. It stands here and nowhere else."""

VERSION = "0.1.0"
