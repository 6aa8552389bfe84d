"""``python -m precut.engine`` prints docs/supported-operations.md."""

from precut.engine import supported_operations

print(supported_operations(), end="")
