"""`python -m h5ingest` is the `h5ingest` command."""

from h5ingest.cli.main import main

if __name__ == "__main__":
    main()
