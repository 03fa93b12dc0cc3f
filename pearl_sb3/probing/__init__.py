"""How much of a game's hidden state an encoder's features hold."""
