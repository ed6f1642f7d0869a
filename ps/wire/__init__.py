"""All that travels: messages as types and as frames, numbers as bytes, and sockets for them.

docs/wire-format.md is the contract. Imports: nothing but ps itself.
"""
