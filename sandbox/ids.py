"""Record ids as Salesforce spells them."""

_CHECKSUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def with_checksum(short: str) -> str:
    """Turn a record id of 15 characters into one of 18: the case of each group of five becomes one more character."""
    groups = (short[i : i + 5] for i in (0, 5, 10))
    return short + "".join(_CHECKSUM[sum(char.isupper() << k for k, char in enumerate(group))] for group in groups)


def record_id(prefix: str, number: int) -> str:
    """Return a valid record id of 18 characters."""
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return with_checksum(prefix + "5g" + digits.rjust(10, "0"))
