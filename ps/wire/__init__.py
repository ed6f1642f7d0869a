"""What travels: messages as types and as frames, numbers as bytes, and the sockets that carry them.

docs/wire-format.md is the contract. Imports: nothing but ps itself.
"""
