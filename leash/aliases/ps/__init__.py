"""Another name of leash.ps."""

from leash._alias import alias

alias(__name__)
