"""A fresh org in the sandbox, and what an administrator of it does: calls, sign-ins, deploys, Setup."""

import asyncio
import base64
import datetime
import hashlib
import io
import json
import urllib.parse
import zipfile
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from sandbox.world import with_checksum
from tests.sandbox.far_sides import PRIVATE_KEY, FarSides

KEY = load_pem_private_key(PRIVATE_KEY.encode(), password=None)
CALLBACK = "https://connector.example.com/sf/callback"
ADA, REP, INTEGRATION = "ada@fresh.example", "marko.babic@fresh.example", "byoc@fresh.example"
VERIFIER = "v" * 50
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
XMLNS = 'xmlns="http://soap.sforce.com/2006/04/metadata"'


def certificate(key: Any = KEY) -> str:
    """Return a self-signed certificate of a key, as PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "connector")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=365))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def wrap(kind: str, body: str) -> str:
    """Return a metadata file."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{kind} {XMLNS}>{body}</{kind}>'


def tags(**values: str) -> str:
    """Return elements."""
    return "".join(f"<{name}>{value}</{name}>" for name, value in values.items())


def manifest(members: list[tuple[str, str]], version: str = "67.0") -> str:
    """Return a package.xml."""
    types = "".join(f"<types><members>{name}</members><name>{kind}</name></types>" for kind, name in members)
    return wrap("Package", types + f"<version>{version}</version>")


EVENT_FIELDS = (
    "<fields><fullName>EventType__c</fullName><label>EventType</label><length>255</length><type>Text</type></fields>"
    "<fields><fullName>Payload__c</fullName><label>Payload</label><length>131072</length><type>LongTextArea</type>"
    "<visibleLines>3</visibleLines></fields>"
)
PERMISSION_SET = (
    "<label>Infobip Connector</label><objectPermissions><allowCreate>true</allowCreate><allowRead>true</allowRead>"
    "<object>Infobip_Event__e</object></objectPermissions>"
    "<userPermissions><enabled>true</enabled><name>ApiEnabled</name></userPermissions>"
)
BODY = "".join(certificate().strip().splitlines()[1:-1])
APP = {
    ("ExternalClientApplication", "Infobip_BYOC", "externalClientApps/Infobip_BYOC.eca"): tags(
        contactEmail="a@b.example", distributionState="Local", label="Infobip BYOC"
    ),
    (
        "ExtlClntAppGlobalOauthSettings",
        "Infobip_BYOC_glbl",
        "extlClntAppGlobalOauthSets/Infobip_BYOC_glbl.ecaGlblOauth",
    ): tags(
        callbackUrl=CALLBACK,
        certificate=BODY,
        externalClientApplication="Infobip_BYOC",
        isPkceRequired="true",
        label="global",
    ),
    ("ExtlClntAppOauthSettings", "Infobip_BYOC_oauth", "extlClntAppOauthSettings/Infobip_BYOC_oauth.ecaOauth"): tags(
        commaSeparatedOauthScopes="Api,RefreshToken,Interaction,OpenID,Basic",
        externalClientApplication="Infobip_BYOC",
        label="oauth",
    ),
    (
        "ExtlClntAppOauthConfigurablePolicies",
        "Infobip_BYOC_oauthPlcy",
        "extlClntAppOauthPolicies/Infobip_BYOC_oauthPlcy.ecaOauthPlcy",
    ): tags(
        commaSeparatedPermissionSet="Infobip_Connector",
        externalClientApplication="Infobip_BYOC",
        label="policy",
        permittedUsersPolicyType="AdminApprovedPreAuthorized",
    ),
}
EVENT = ("CustomObject", "Infobip_Event__e", "objects/Infobip_Event__e.object")
CONNECTOR = ("PermissionSet", "Infobip_Connector", "permissionsets/Infobip_Connector.permissionset")
VENDOR = (
    "ConversationVendorInfo",
    "Infobip",
    "ConversationVendorInformation/Infobip.ConversationVendorInformation",
)
DEFINITION = (
    "ConversationChannelDefinition",
    "Infobip_WhatsApp",
    "conversationChannelDefinitions/Infobip_WhatsApp.ConversationChannelDefinition",
)
CHANNEL_DEFINITION = {
    "connectedAppType": "Customer",
    "consentOwner": "Salesforce",
    "conversationVendorInfo": "Infobip",
    "customEventPayloadField": "Infobip_Event__e.Payload__c",
    "customEventTypeField": "Infobip_Event__e.EventType__c",
    "customPlatformEvent": "Infobip_Event__e",
    "developerName": "Infobip_WhatsApp",
    "masterLabel": "Infobip WhatsApp",
    "routingOwner": "Salesforce",
    "supportsImplicitConsent": True,
}
Files = dict[tuple[str, str, str], str]
EVERYTHING: Files = {
    EVENT: "<deploymentStatus>Deployed</deploymentStatus><eventType>HighVolume</eventType>"
    + EVENT_FIELDS
    + tags(label="Infobip Event", pluralLabel="Infobip Events", publishBehavior="PublishAfterCommit"),
    CONNECTOR: PERMISSION_SET,
    **APP,
    VENDOR: tags(developerName="Infobip", masterLabel="Infobip", vendorType="BringYourOwnChannelPartner"),
    DEFINITION: tags(
        **{name: str(value).lower() if value is True else str(value) for name, value in CHANNEL_DEFINITION.items()}
    ),
}


def package(files: Files, **others: str) -> bytes:
    """Return a zip with these components and a package.xml that names them."""
    written = {"package.xml": manifest([(kind, name) for kind, name, _ in files])}
    written |= {path: wrap(kind, body) for (kind, _, path), body in files.items()}
    return pack(written | {name.replace("_xml", ".xml"): body for name, body in others.items()})


def pack(files: dict[str, str]) -> bytes:
    """Return a zip."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for path, body in files.items():
            archive.writestr(path, body)
    return written.getvalue()


PRESENCE = ("ServicePresenceStatus", "Online", "servicePresenceStatuses/Online.servicePresenceStatus")
ROUTING = ("QueueRoutingConfig", "Routing", "queueRoutingConfigs/Routing.queueRoutingConfig")
QUEUE = ("Queue", "Infobip_Messaging", "queues/Infobip_Messaging.queue")
FLOW = ("Flow", "Infobip_Route_Session", "flows/Infobip_Route_Session.flow")
PAGE = ("FlexiPage", "Infobip_BYOC_Configuration", "flexipages/Infobip_BYOC_Configuration.flexipage")
TAB = ("CustomTab", "Infobip_BYOC_Configuration", "tabs/Infobip_BYOC_Configuration.tab")
CONSOLE: Files = {
    ROUTING: tags(label="Routing", routingModel="MOST_AVAILABLE", routingPriority="1", capacityWeight="1.0"),
    QUEUE: tags(name="Infobip Messaging", queueRoutingConfig="Routing", queueSobject=tags(sobjectType="MessagingSession")),
    PRESENCE: tags(channels=tags(channel="sfdc_livemessage"), label="Online"),
    FLOW: tags(
        label="Infobip Route Session",
        processType="RoutingFlow",
        recordLookups=tags(
            name="Find_queue",
            filters=tags(field="DeveloperName", value=tags(stringValue="Infobip_Messaging")),
        ),
        status="Active",
    ),
    PAGE: tags(
        flexiPageRegions=tags(
            itemInstances=tags(
                componentInstance=tags(
                    componentInstanceProperties=tags(name="src", value="https://connector.example.com/e/x/"),
                    componentName="c:InfobipFrame",
                )
            )
        ),
        masterLabel="Infobip",
        type="AppPage",
    ),
    TAB: tags(flexiPage="Infobip_BYOC_Configuration", label="Infobip", motif="Custom78: Bar Chart"),
}
BUNDLE = {
    "aura/InfobipFrame/InfobipFrame.cmp": '<aura:component implements="force:hasRecordId"><div/></aura:component>',
    "aura/InfobipFrame/InfobipFrame.cmp-meta.xml": wrap("AuraDefinitionBundle", tags(apiVersion="67.0")),
}


def with_bundle(files: Files, **bundle: str) -> bytes:
    members = [(kind, name) for kind, name, _ in files]
    written = {path: wrap(kind, body) for (kind, _, path), body in files.items()} | BUNDLE | bundle
    return pack(written | {"package.xml": manifest([*members, ("AuraDefinitionBundle", "InfobipFrame")])})


class FreshOrg:
    """A fresh org beside the one of FarSides."""

    def __init__(self, sides: FarSides) -> None:
        self.sides = sides
        self.id = with_checksum("00D5g00000FrEsh")
        self.data = f"{sides.salesforce}/services/data/v67.0"
        self.page = f"{sides.salesforce}/setup/{self.id}"

    async def be_born(self) -> "FreshOrg":
        sides = self.sides
        account = {"name": "main", "baseUrl": sides.infobip, "apiKey": "key-fresh", "numbers": ["447700900777"]}
        org = {"name": "Fresh", "orgId": self.id, "baseUrl": sides.salesforce, "scrtUrl": sides.salesforce}
        await sides.control(
            "POST", "/control/orgs", {"document": {"org": org, "infobipAccounts": [account]}, "empty": True}
        )
        await self.edit("switches.deploy_seconds", 0.05)
        return self

    async def token(self, username: str = ADA, scopes: list[str] | None = None) -> str:
        body = {"username": username, "scopes": scopes}
        return str((await self.sides.control("POST", f"/control/orgs/{self.id}/tokens", body))["accessToken"])

    async def setup(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.sides.control("GET", f"/control/orgs/{self.id}/setup")
        return found

    async def rows(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.setup())["records"][kind]
        return found

    async def edit(self, path: str, value: Any) -> None:
        await self.sides.control("PATCH", f"/control/orgs/{self.id}/setup", {"path": path, "value": value})

    async def call(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token or await self.token()}"}
        url = path if path.startswith("http") else self.data + path
        async with self.sides.client.request(method, url, json=body, headers=headers) as response:
            raw = await response.read()
            return response.status, json.loads(raw) if raw else None

    async def query(self, soql: str, *, tooling: bool = False, token: str | None = None) -> list[dict[str, Any]]:
        path = f"{'/tooling' if tooling else ''}/query?" + urllib.parse.urlencode({"q": soql})
        status, answer = await self.call("GET", path, token=token)
        assert status == 200, answer
        records: list[dict[str, Any]] = answer["records"]
        assert (answer["totalSize"], answer["done"]) == (len(records), True)
        return records

    async def start_deploy(self, archive: bytes, *, token: str | None = None, **options: Any) -> tuple[int, Any]:
        form = aiohttp.FormData(default_to_multipart=True)
        usual = {"singlePackage": True, "rollbackOnError": True, "checkOnly": False} | options
        form.add_field("json", json.dumps({"deployOptions": usual}), content_type="application/json")
        form.add_field("file", archive, filename="deploy.zip", content_type="application/zip")
        headers = {"Authorization": f"Bearer {token or await self.token()}"}
        url = f"{self.data}/metadata/deployRequest"
        async with self.sides.client.post(url, data=form, headers=headers) as response:
            return response.status, await response.json()

    async def deploy_status(self, deployment: str) -> dict[str, Any]:
        _, answer = await self.call("GET", f"/metadata/deployRequest/{deployment}?includeDetails=true")
        result: dict[str, Any] = answer["deployResult"]
        return result

    async def deploy(self, files: Files | bytes, **options: Any) -> dict[str, Any]:
        status, started = await self.start_deploy(files if isinstance(files, bytes) else package(files), **options)
        assert status == 201, started
        while not (result := await self.deploy_status(started["id"]))["done"]:
            await asyncio.sleep(0.02)
        return result

    async def problem(self, files: Files | bytes, **options: Any) -> str:
        """Deploy what must fail and return the problems."""
        result = await self.deploy(files, **options)
        assert (result["status"], result["success"]) == ("Failed", False), result
        return " | ".join(each["problem"] for each in result["details"]["componentFailures"])

    async def press(self, action: str, status: int = 303, **fields: Any) -> str:
        """Send a form of the Setup page."""
        pairs = [("action", action)]
        for name, value in fields.items():
            pairs += [(name, each) for each in (value if isinstance(value, list) else [value])]
        async with self.sides.client.post(self.page, data=aiohttp.FormData(pairs), allow_redirects=False) as response:
            text = await response.text()
            assert response.status == status, text
            return text

    async def assign(self, username: str, permission_set: str) -> None:
        user = (await self.query(f"SELECT Id FROM User WHERE Username = '{username}'"))[0]["Id"]
        granted = (await self.query(f"SELECT Id FROM PermissionSet WHERE Name = '{permission_set}'"))[0]["Id"]
        body = {"AssigneeId": user, "PermissionSetId": granted}
        status, answer = await self.call("POST", "/sobjects/PermissionSetAssignment", body)
        assert status == 201, answer

    async def consumer_key(self) -> str:
        return str((await self.rows("ExternalClientApp"))[0]["ConsumerKey"])


def other_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)
