"""What each reason means for which Infobip's webhooks are turned away or set aside: the one place that says so."""

from dataclasses import dataclass

AGAIN = "Infobip sends them again for some hours; after that they are lost."
NOT_AGAIN = "Infobip may not repeat a chatbot's call: then the customer stays with the chatbot."
BY_ITSELF = "Infobip sends them again, and they are delivered then."
NOTHING_TAKEN = "Nothing was taken from them, and no message is lost."
ADDRESS = "Copy the account's address from “Select senders” into the notification profile."
SECRET = "Copy the secret from “Add Infobip accounts” into the HMAC authentication of the notification profile."
TOKEN = "Copy the address and the token from “Select senders” into the Call API element of the chatbot."
NOTHING_TO_DO = "There is nothing that you need to do."


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason.

    :param happened: what happened
    :param then: what becomes of the messages
    :param remedy: what the customer does about it
    :param ours: it was trouble of this site, or somebody's try, which ends without the customer
    """

    happened: str
    then: str
    remedy: str
    ours: bool = False


REFUSALS = {
    "no signature": Refusal("They came without a signature.", AGAIN, SECRET),
    "wrong signature": Refusal("They were signed with another secret than the one kept here.", AGAIN, SECRET),
    "near miss": Refusal(
        "They were sent to an address that does not exist, though it is close to the right one.", AGAIN, ADDRESS
    ),
    "unknown account": Refusal("They were sent to the address of an account that does not exist.", AGAIN, ADDRESS),
    "bare path": Refusal("They were sent to the address without an account, which is not served here.", AGAIN, ADDRESS),
    "not a POST": Refusal(
        "They were sent by another method than POST.", AGAIN, "Choose POST as the method in the notification profile."
    ),
    "not JSON": Refusal(
        "What was sent is not JSON.", AGAIN, "Let the subscription, and no flow or proxy of yours, post to our address."
    ),
    "too large": Refusal(
        "They were larger than what is taken at once.", AGAIN, "Let the subscription send fewer results at a time."
    ),
    "too many values": Refusal(
        "They held more than is read at once.", AGAIN, "Let the subscription send fewer results at a time."
    ),
    "wrong report address": Refusal(
        "They came to an address for reports that we did not give out.", NOTHING_TAKEN, NOTHING_TO_DO, ours=True
    ),
    "report on another message": Refusal(
        "They came to one message's address for reports, and spoke of another.", NOTHING_TAKEN, NOTHING_TO_DO, ours=True
    ),
    "broken body": Refusal(
        "They broke off, or were garbled on their way.",
        AGAIN,
        "Check the proxy, if there is one, between Infobip and our address.",
    ),
    "trickling body": Refusal(
        "They did not arrive in time: their first byte within 2.5 seconds, all of them within ten.",
        AGAIN,
        "Check the proxy, if there is one, between Infobip and our address.",
    ),
    "unknown sender": Refusal(
        "Customers wrote to a number that is not among the senders here.",
        "We took these messages, so Infobip does not send them again, and no rep sees them.",
        "Select {number} under “Select senders”: what customers write to it from then on arrives.",
    ),
    "no hand-over token": Refusal("A chatbot called without the hand-over token.", NOT_AGAIN, TOKEN),
    "wrong hand-over token": Refusal(
        "A chatbot called with another hand-over token than the one kept here.", NOT_AGAIN, TOKEN
    ),
    "unusable call": Refusal(
        "A chatbot's call named no conversation that can be handed over.",
        NOT_AGAIN,
        "Compare the body of the Call API element with the one under “Select senders”.",
    ),
    "not stored": Refusal("Our database did not answer for a while.", BY_ITSELF, NOTHING_TO_DO, ours=True),
    "account not found out": Refusal("Our database did not answer for a while.", BY_ITSELF, NOTHING_TO_DO, ours=True),
    "too many bodies at once": Refusal("More came at once than we could take.", BY_ITSELF, NOTHING_TO_DO, ours=True),
    "secret cannot be decrypted": Refusal(
        "We can no longer read the secret that is kept here.",
        AGAIN,
        "Make a new secret under “Add Infobip accounts”, and enter it in the notification profile.",
    ),
}

# a reason that a newer version of us counted
UNFORESEEN = Refusal("They were turned away.", AGAIN, "Compare the notification profile with what “Select senders” shows.")
