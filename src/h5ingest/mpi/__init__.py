"""Communication between ranks: communicator, asynchronous sums, watchdog, launchers, signals."""
