"""What figures share: style, labels, marks, the points behind them, and files on disk."""
