"""The wire: messages as types, messages as frames, numbers as bytes."""
