"""Addresses that prove themselves: where the reports on one message go.

A message carries its own ``notifyUrl``, and Infobip is not known to sign what it posts there. So the address names account
and message and holds a MAC over both: whoever posts to it was given it with the message.

https://www.infobip.com/docs/api/channels/whatsapp/whatsapp-outbound-messages/send-whatsapp-text-message
"""

import hmac
from uuid import UUID

from django.conf import settings
from django.utils.crypto import salted_hmac

SALT = "connector.reports"
PATTERN = "[0-9a-f]{96}"  # the message's uuid and the MAC, in hexadecimal digits: a change of case does no harm


def token_for(account: UUID, message: UUID) -> str:
    """Make the token of a message of an account, with the first key of ``FIELD_ENCRYPTION_KEYS``."""
    return message.hex + _mac(settings.FIELD_ENCRYPTION_KEYS[0], account, message)


def message_of(account: UUID, token: str) -> UUID | None:
    """Name the message that a token was made for; None if no key of ours made it for this account.

    Each of ``FIELD_ENCRYPTION_KEYS`` counts: reports come for days after a send, and keys change meanwhile.

    :param token: of the shape of ``PATTERN``
    """
    message = UUID(token[:32])
    macs = [_mac(key, account, message) for key in settings.FIELD_ENCRYPTION_KEYS]
    return message if any(hmac.compare_digest(mac, token[32:]) for mac in macs) else None


def _mac(key: str, account: UUID, message: UUID) -> str:
    return salted_hmac(SALT, f"{account} {message}", secret=key, algorithm="sha256").hexdigest()
