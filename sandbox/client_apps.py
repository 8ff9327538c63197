"""The five files that make an external client app, and its certificate.

https://developer.salesforce.com/docs/atlas.en-us.api_meta.meta/api_meta/meta_externalclientapplication.htm
"""

import base64
import binascii
import re

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from sandbox.elements import Problem, Xml, reference
from sandbox.records import PRE_AUTHORIZED, SCOPES, SELF_AUTHORIZED, ExternalClientApp, PermissionSet
from sandbox.setup_org import Setup


def app_of(setup: Setup, xml: Xml) -> ExternalClientApp:
    """Return the app that a file belongs to.

    :raises Problem: if there is none of that name
    """
    name = xml.needed("externalClientApplication")
    app = setup.find(ExternalClientApp, name=name)
    if app is None:
        raise Problem(f"INVALID_CROSS_REFERENCE_KEY: no ExternalClientApplication named {name} found")
    return app


def put_app(setup: Setup, name: str, xml: Xml) -> None:
    if not setup.switches.external_client_apps:
        raise Problem("External client apps are not enabled in this org: opt in to External Client Apps in Setup")
    label = xml.needed("label")
    if xml.needed("distributionState") not in ("Local", "Packaged"):
        raise Problem("distributionState is Local or Packaged")
    xml.needed("contactEmail")
    app = setup.find(ExternalClientApp, name=name) or setup.add(ExternalClientApp(name=name, label=label))
    app.label = label


def put_global_oauth(setup: Setup, name: str, xml: Xml) -> None:
    if not setup.switches.secrets_by_metadata:
        raise Problem("Access to External Client App consumer secrets via Metadata API is not allowed in this org")
    app = app_of(setup, xml)
    xml.needed("label")
    app.callback_urls = xml.needed("callbackUrl").split()
    certificate = xml.text("certificate")
    app.certificate = read_certificate(certificate) if certificate else None  # a deploy without one takes it away
    app.is_pkce_required, app.is_secret_optional = xml.flag("isPkceRequired"), xml.flag("isConsumerSecretOptional")
    if xml.flag("shouldRotateConsumerKey"):
        app.consumer_key = None
    if xml.flag("shouldRotateConsumerSecret"):
        app.consumer_secret = None
    app.make_consumer()


def read_certificate(text: str) -> str:
    """Return a certificate as PEM, from that or from its base64 body.

    :raises Problem: if it is no certificate of an RSA key
    """
    body = re.sub(r"-----[A-Z ]+-----|\s", "", text)
    try:
        certificate = load_der_x509_certificate(base64.b64decode(body, validate=True))
    except (ValueError, binascii.Error) as exc:
        raise Problem("Invalid certificate: it cannot be read") from exc
    if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
        raise Problem("Invalid certificate: its key is not RSA")
    return certificate.public_bytes(Encoding.PEM).decode()


def put_oauth_settings(setup: Setup, name: str, xml: Xml) -> None:
    app = app_of(setup, xml)
    xml.needed("label")
    names = [each.strip() for each in xml.needed("commaSeparatedOauthScopes").split(",")]
    if unknown := [each for each in names if each not in SCOPES]:
        raise Problem(f"commaSeparatedOauthScopes: '{unknown[0]}' is not a valid scope")
    app.scopes = [SCOPES[each] for each in names]


def put_oauth_policies(setup: Setup, name: str, xml: Xml) -> None:
    app = app_of(setup, xml)
    xml.needed("label")
    policy = xml.needed("permittedUsersPolicyType")
    if policy not in (PRE_AUTHORIZED, SELF_AUTHORIZED):
        raise Problem(f"permittedUsersPolicyType: '{policy}' is not a valid value")
    sets = [each.strip() for each in (xml.text("commaSeparatedPermissionSet") or "").split(",") if each.strip()]
    for each in sets:
        found = setup.find(PermissionSet, name=each) or setup.find(PermissionSet, id=each)
        reference(found, "commaSeparatedPermissionSet", "PermissionSet", each)
    app.permitted_users, app.permission_sets = policy, sets


def put_app_policies(setup: Setup, name: str, xml: Xml) -> None:
    xml.needed("label")
    app_of(setup, xml).is_enabled = xml.flag("isEnabled") and xml.flag("isOauthPluginEnabled", True)


def forget(app: ExternalClientApp, kind: str) -> None:
    """Take away what one file of an app had set."""
    if kind == "ExtlClntAppGlobalOauthSettings":
        app.consumer_key = app.consumer_secret = app.certificate = None
        app.callback_urls = []
    elif kind == "ExtlClntAppOauthSettings":
        app.scopes = []
    elif kind == "ExtlClntAppOauthConfigurablePolicies":
        app.permitted_users, app.permission_sets = SELF_AUTHORIZED, []
    else:
        app.is_enabled = True
