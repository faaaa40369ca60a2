"""File formats that several runtimes read, without the libraries behind them."""
