"""`python -m ggdjax …` is `ggdjax …`."""

from ggdjax.cli import main

if __name__ == "__main__":
    main()
