"""Inside a training loop: maps -> tokens -> masks -> TokenMix targets."""
