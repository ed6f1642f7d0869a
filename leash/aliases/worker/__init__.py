"""Another name of leash.worker."""

from leash._alias import alias

alias(__name__)
