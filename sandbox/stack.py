"""Stands where devstack was, for those who still start it by its old name: python -m sandbox.stack run -- COMMAND…"""

import sys

from devstack.__main__ import main
from devstack.documents import CHATBOT_SENDER, demo_document, empty_document, example_documents
from devstack.family import StackError
from devstack.ports import HOST, free_port
from devstack.stack import Stack, procfile
from devstack.version import ROOT, code_measured

__all__ = [
    "CHATBOT_SENDER",
    "HOST",
    "ROOT",
    "Stack",
    "StackError",
    "code_measured",
    "demo_document",
    "empty_document",
    "example_documents",
    "free_port",
    "procfile",
]

if __name__ == "__main__":
    sys.exit(main())
