"""Pure decisions: no Django, AWS, event loop, thread, clock or randomness."""
