"""Provision documents of companies that live in the sandbox."""

import secrets
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from devstack.ports import HOST

CHATBOT_SENDER = "447700900150"  # of the demo, where a chatbot answers first


def example_documents(salesforce_port: int, infobip_port: int, orgs: int = 1) -> list[dict[str, Any]]:
    """Make provision documents for companies that live in the sandbox, with keys and secrets of their own."""
    names = ["Acme", "Rival", *(f"Company {number}" for number in range(3, orgs + 1))]
    return [
        _example_document(number, name, salesforce_port, infobip_port) for number, name in enumerate(names[:orgs], start=1)
    ]


def demo_document(salesforce_port: int, infobip_port: int) -> dict[str, Any]:
    """Make the document of a company with a number that a rep answers and one that a chatbot answers first."""
    (document,) = example_documents(salesforce_port, infobip_port)
    channel = document["channels"][0]
    channel["welcomeMessage"] = "Hang tight, an agent will join the chat in just a moment."
    channel["closingMessage"] = "This conversation has ended. Message us again if you need help."
    channel["senders"].append({"account": "main", "number": CHATBOT_SENDER, "chatbotFirst": True})
    return document


def empty_document(salesforce_port: int, infobip_port: int) -> dict[str, Any]:
    """Describe a company that has an org and an Infobip account, and nothing of ours in them."""
    salesforce = f"http://{HOST}:{salesforce_port}"
    return {
        "org": {"name": "Acme", "orgId": "00D5g0000000001EAA", "baseUrl": salesforce, "scrtUrl": salesforce},
        "infobipAccounts": [
            {
                "name": "main",
                "baseUrl": f"http://{HOST}:{infobip_port}",
                "apiKey": secrets.token_urlsafe(24),
                "numbers": ["447700900123", "447700900124"],
            }
        ],
    }


def _example_document(number: int, name: str, salesforce_port: int, infobip_port: int) -> dict[str, Any]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    salesforce, host = f"http://{HOST}:{salesforce_port}", name.lower().replace(" ", "-")
    return {
        "org": {
            "name": name,
            "orgId": f"00D5g0000{number:06d}EAA",  # the three letters say which of the fifteen are upper-case
            "baseUrl": salesforce,
            "scrtUrl": salesforce,
            "consumerKey": f"3MVG9{secrets.token_urlsafe(24)}",
            "username": f"byoc@{host}.example",
            "privateKey": pem.decode(),
        },
        "infobipAccounts": [
            {
                "name": "main",
                "baseUrl": f"http://{HOST}:{infobip_port}",
                "apiKey": secrets.token_urlsafe(24),
                "webhookSecret": secrets.token_urlsafe(24),
                "handoverToken": secrets.token_urlsafe(24),
            }
        ],
        "channels": [
            {
                "name": "WhatsApp",
                "developerName": "Infobip_WhatsApp",
                "authorizationContext": "Infobip_WhatsApp",
                "channelAddressIdentifier": f"6f1f4a5e-2f0a-4e1c-9c55-{number:012d}",
                "customEventName": "Infobip_Event__e",
                "customEventTypeField": "EventType__c",
                "customEventPayloadField": "Payload__c",
                "senders": [{"account": "main", "number": str(447700900122 + number), "chatbotFirst": False}],
            }
        ],
    }
