"""vLLM beside us: what fits a card and why (`plan`), and running it (`environment`, `launch`)."""
