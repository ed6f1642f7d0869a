"""The server side of Leash, and all that both sides share.

This package never imports PyTorch or ``leash.worker``: a server host needs neither. Its
modules that are in no folder import no folder, except cli.py, which imports the options.
"""

if __name__ == "ps":  # the folder, found from the root of a checkout
    from leash._alias import alias

    alias(__name__)
