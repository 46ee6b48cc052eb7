"""Where the shared state lives. A store does one thing: run a pure function on the state, alone."""
