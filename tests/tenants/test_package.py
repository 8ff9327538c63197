"""The set-up package against what Salesforce documents: folders, suffixes, elements in their order, written out by hand."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tenants import package
from tenants.package import Component, Part, Settings, components, explain, metadata_zip, source_zip, undo_zip

NAMESPACE = "{http://soap.sforce.com/2006/04/metadata}"

# path, then an element a line with its text, below its parent; in the order that the types' documentation has
DOCUMENTED = """
externalClientApps/Infobip_BYOC.eca
  ExternalClientApplication
    contactEmail admin@acme.example
    description Infobip messaging connector
    distributionState Local
    isProtected false
    label Infobip BYOC

extlClntAppGlobalOauthSets/Infobip_BYOC_glbl.ecaGlblOauth
  ExtlClntAppGlobalOauthSettings
    callbackUrl https://connector.example.com/sf/callback
    certificate (the certificate)
    externalClientApplication Infobip_BYOC
    isConsumerSecretOptional false
    isIntrospectAllTokens false
    isNamedUserJwtEnabled false
    isPkceRequired true
    isSecretRequiredForRefreshToken true
    label Infobip BYOC global OAuth
    shouldRotateConsumerKey false
    shouldRotateConsumerSecret false

extlClntAppOauthSettings/Infobip_BYOC_oauth.ecaOauth
  ExtlClntAppOauthSettings
    commaSeparatedOauthScopes Api,RefreshToken,Interaction,OpenID,Basic
    externalClientApplication Infobip_BYOC
    label Infobip BYOC OAuth

extlClntAppOauthPolicies/Infobip_BYOC_oauthPlcy.ecaOauthPlcy
  ExtlClntAppOauthConfigurablePolicies
    commaSeparatedPermissionSet Infobip_Connector,Infobip_Agent,Infobip_Admin
    externalClientApplication Infobip_BYOC
    ipRelaxationPolicyType Bypass
    label Infobip BYOC OAuth policy
    permittedUsersPolicyType AdminApprovedPreAuthorized
    refreshTokenPolicyType Zero
    requiredSessionLevel STANDARD
    sessionTimeoutInMinutes 120

extlClntAppPolicies/Infobip_BYOC_plcy.ecaPlcy
  ExtlClntAppConfigurablePolicies
    externalClientApplication Infobip_BYOC
    isEnabled true
    isOauthPluginEnabled true
    label Infobip BYOC policy
    startPage None

objects/Infobip_Event__e.object
  CustomObject
    deploymentStatus Deployed
    eventType HighVolume
    fields
      fullName EventType__c
      label EventType
      length 255
      required false
      type Text
      unique false
    fields
      fullName Payload__c
      label Payload
      length 131072
      type LongTextArea
      visibleLines 3
    label Infobip Event
    pluralLabel Infobip Events
    publishBehavior PublishAfterCommit

ConversationVendorInformation/Infobip.ConversationVendorInformation
  ConversationVendorInfo
    developerName Infobip
    masterLabel Infobip
    vendorType BringYourOwnChannelPartner

conversationChannelDefinitions/Infobip_WhatsApp.ConversationChannelDefinition
  ConversationChannelDefinition
    connectedAppType Customer
    consentOwner Salesforce
    conversationVendorInfo Infobip
    customEventPayloadField Infobip_Event__e.Payload__c
    customEventTypeField Infobip_Event__e.EventType__c
    customPlatformEvent Infobip_Event__e
    developerName Infobip_WhatsApp
    isInboundAcknwOptionExposed true
    isTypingIndicatorOptionHidden false
    masterLabel Infobip WhatsApp
    routingOwner Salesforce
    supportsCustomChannelParameters true
    supportsImplicitConsent true
    supportsKeywords true

aura/InfobipFrame/InfobipFrame.cmp-meta.xml
  AuraDefinitionBundle
    apiVersion 67.0
    description Frame for the Infobip connector

flexipages/Infobip_BYOC_Configuration.flexipage
  FlexiPage
    flexiPageRegions
      itemInstances
        componentInstance
          componentInstanceProperties
            name src
            value https://connector.example.com/e/Zt4k9Qw2/
          componentInstanceProperties
            name height
            value 1000px
          componentName c:InfobipFrame
          identifier c_InfobipFrame
      name main
      type Region
    masterLabel Infobip BYOC Configuration
    template
      name flexipage:defaultAppHomeTemplate
    type AppPage

tabs/Infobip_BYOC_Configuration.tab
  CustomTab
    flexiPage Infobip_BYOC_Configuration
    label Infobip BYOC
    motif Custom78: Bar Chart

queueRoutingConfigs/Infobip_Routing.queueRoutingConfig
  QueueRoutingConfig
    capacityType INHERITED
    capacityWeight 1.0
    isAttributeBased false
    label Infobip Routing
    routingModel MOST_AVAILABLE
    routingPriority 1

queues/Infobip_Messaging.queue
  Queue
    doesSendEmailToMembers false
    name Infobip Messaging
    queueRoutingConfig Infobip_Routing
    queueSobject
      sobjectType MessagingSession

servicePresenceStatuses/Infobip_Messaging_Online.servicePresenceStatus
  ServicePresenceStatus
    channels
      channel sfdc_livemessage
    label Online for Messaging

settings/OmniChannel.settings
  OmniChannelSettings
    enableOmniChannel true
    omniAutoLoginOption AutomaticLogin

cspTrustedSites/Infobip_Connector.cspTrustedSite
  CspTrustedSite
    context LEX
    endpointUrl https://connector.example.com
    isActive true
    isApplicableToFrameSrc true

flows/Infobip_Route_Session.flow
  Flow
    actionCalls
      name Route_to_queue
      label Route to queue
      locationX 0
      locationY 0
      actionName routeWork
      actionType routeWork
      flowTransactionModel CurrentTransaction
      inputParameters
        name recordId
        value
          elementReference recordId
      inputParameters
        name serviceChannelLabel
        value
          stringValue Messaging
      inputParameters
        name serviceChannelDevName
        value
          stringValue sfdc_livemessage
      inputParameters
        name serviceChannelId
        value
          setupReference sfdc_livemessage
          setupReferenceType ServiceChannel
      inputParameters
        name routingType
        value
          stringValue QueueBased
      inputParameters
        name queueId
        value
          elementReference Find_queue.Id
      inputParameters
        name isQueueVariable
        value
          booleanValue true
      nameSegment routeWork
      versionString 2.0.0
    apiVersion 67.0
    environments Default
    interviewLabel Infobip Route Session {!$Flow.CurrentDateTime}
    label Infobip Route Session
    processMetadataValues
      name BuilderType
      value
        stringValue LightningFlowBuilder
    processMetadataValues
      name CanvasMode
      value
        stringValue AUTO_LAYOUT_CANVAS
    processType RoutingFlow
    recordLookups
      name Find_queue
      label Find queue
      locationX 0
      locationY 0
      assignNullValuesIfNoRecordsFound false
      connector
        targetReference Route_to_queue
      filterLogic and
      filters
        field Type
        operator EqualTo
        value
          stringValue Queue
      filters
        field DeveloperName
        operator EqualTo
        value
          stringValue Infobip_Messaging
      getFirstRecordOnly true
      object Group
      storeOutputAutomatically true
    start
      locationX 0
      locationY 0
      connector
        targetReference Find_queue
    status Active
    variables
      name recordId
      dataType String
      isCollection false
      isInput true
      isOutput false
    variables
      name errorReason
      dataType String
      isCollection false
      isInput true
      isOutput false

permissionsets/Infobip_Agent.permissionset
  PermissionSet
    description May sign in to the WhatsApp templates panel
    hasActivationRequired false
    label Infobip Agent

permissionsets/Infobip_Admin.permissionset
  PermissionSet
    description May sign in to the Infobip connector's set-up
    hasActivationRequired false
    label Infobip Admin

permissionsets/Infobip_Presence.permissionset
  PermissionSet
    description May go online for messaging
    hasActivationRequired false
    label Infobip Presence
    servicePresenceStatusAccesses
      enabled true
      servicePresenceStatus Infobip_Messaging_Online

permissionsets/Infobip_Configuration.permissionset
  PermissionSet
    description Sees the page of the Infobip connector's set-up
    hasActivationRequired false
    label Infobip Configuration
    tabSettings
      tab Infobip_BYOC_Configuration
      visibility Visible

presenceUserConfigs/Infobip_Messaging.presenceUserConfig
  PresenceUserConfig
    capacity 10
    enableAutoAccept false
    enableDecline true
    label Infobip Messaging
"""

CONNECTOR = "permissionsets/Infobip_Connector.permissionset"
BUNDLE = {f"aura/InfobipFrame/InfobipFrame.{suffix}" for suffix in ("cmp", "design", "cmp-meta.xml")}

# the four deploys; a later one may need an earlier one, never the other way round
MANIFESTS = {
    Part.EVENT_AND_PERMISSIONS: {
        "CustomObject": ["Infobip_Event__e"],
        "PermissionSet": ["Infobip_Connector", "Infobip_Agent", "Infobip_Admin"],
    },
    Part.APP: {
        "ExternalClientApplication": ["Infobip_BYOC"],
        "ExtlClntAppGlobalOauthSettings": ["Infobip_BYOC_glbl"],
        "ExtlClntAppOauthSettings": ["Infobip_BYOC_oauth"],
        "ExtlClntAppOauthConfigurablePolicies": ["Infobip_BYOC_oauthPlcy"],
        "ExtlClntAppConfigurablePolicies": ["Infobip_BYOC_plcy"],
    },
    Part.CHANNEL: {
        "ConversationVendorInfo": ["Infobip"],
        "ConversationChannelDefinition": ["Infobip_WhatsApp"],
    },
    Part.CONSOLE_AND_ROUTING: {
        "Settings": ["OmniChannel"],
        "AuraDefinitionBundle": ["InfobipFrame"],
        "FlexiPage": ["Infobip_BYOC_Configuration"],
        "CustomTab": ["Infobip_BYOC_Configuration"],
        "CspTrustedSite": ["Infobip_Connector"],
        "QueueRoutingConfig": ["Infobip_Routing"],
        "Queue": ["Infobip_Messaging"],
        "Flow": ["Infobip_Route_Session"],
        "ServicePresenceStatus": ["Infobip_Messaging_Online"],
        "PresenceUserConfig": ["Infobip_Messaging"],
        "PermissionSet": ["Infobip_Presence", "Infobip_Configuration"],
    },
}


def documented() -> dict[str, str]:
    found = {}
    for block in DOCUMENTED.strip().split("\n\n"):
        path, outline = block.split("\n", 1)
        found[path] = outline
    return found


def outlined(text: str) -> str:
    def lines(element: ElementTree.Element, depth: int) -> Iterator[str]:
        assert element.tag.startswith(NAMESPACE) and not element.attrib
        name = "  " * depth + element.tag.removeprefix(NAMESPACE)
        yield name if len(element) else f"{name} {element.text}"
        for child in element:
            yield from lines(child, depth + 1)

    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n')
    return "\n".join(lines(ElementTree.fromstring(text), 1))


def unpacked(data: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert len(set(names)) == len(names) and not any(name.startswith("/") or ".." in name for name in names)
        return {name: archive.read(name).decode() for name in names}


def members(package_xml: str) -> dict[str, list[str]]:
    root = ElementTree.fromstring(package_xml)
    assert root.tag == f"{NAMESPACE}Package" and root.findtext(f"{NAMESPACE}version") == "67.0"
    found = {}
    for types in root.findall(f"{NAMESPACE}types"):
        name = types.findtext(f"{NAMESPACE}name")
        assert name and name not in found
        found[name] = [str(each.text) for each in types.findall(f"{NAMESPACE}members")]
    return found


@pytest.fixture(scope="module")
def certificate() -> x509.Certificate:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "connector.example.com")])
    start = datetime(2026, 11, 1, tzinfo=UTC)
    building = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
    return building.not_valid_before(start).not_valid_after(start + timedelta(days=730)).sign(key, hashes.SHA256())


@pytest.fixture
def org(certificate: x509.Certificate) -> Settings:
    return Settings(
        public_url="https://connector.example.com",
        frame_url="https://connector.example.com/e/Zt4k9Qw2/",
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        contact_email="admin@acme.example",
        integration_username="byoc@acme.example",
        org_url="https://acme.my.salesforce.com",
    )


@pytest.fixture
def files(org: Settings) -> dict[str, str]:
    return unpacked(metadata_zip(org, list(Part)))


def test_the_package_holds_the_documented_files_and_nothing_else(files: dict[str, str]) -> None:
    assert set(files) == {"package.xml", CONNECTOR} | set(documented()) | BUNDLE


@pytest.mark.parametrize("path", documented())
def test_each_file_has_the_documented_elements_in_order(
    path: str, files: dict[str, str], certificate: x509.Certificate
) -> None:
    body = "".join(certificate.public_bytes(serialization.Encoding.PEM).decode().split("\n")[1:-2])
    assert outlined(files[path]) == documented()[path].replace("(the certificate)", body)


def test_the_integration_user_may_do_what_the_connector_does_and_no_more(files: dict[str, str]) -> None:
    root = ElementTree.fromstring(files[CONNECTOR])
    tags = [child.tag.removeprefix(NAMESPACE) for child in root]
    assert tags == ["description", "hasActivationRequired", "label", *["objectPermissions"] * 6, *["userPermissions"] * 3]

    granted = {}
    for each in root.findall(f"{NAMESPACE}objectPermissions"):
        values = {child.tag.removeprefix(NAMESPACE): str(child.text) for child in each}
        flags = ["allowCreate", "allowDelete", "allowEdit", "allowRead", "modifyAllRecords", "viewAllRecords"]
        assert list(values) == [*flags[:-1], "object", flags[-1]]
        granted[values["object"]] = [flag for flag in flags if values[flag] == "true"]
    assert granted == {
        "Account": ["allowRead"],
        "Case": ["allowRead"],
        "Contact": ["allowRead"],
        "Infobip_Event__e": ["allowCreate", "allowRead"],
        "MessagingEndUser": ["allowRead", "viewAllRecords"],
        "MessagingSession": ["allowRead", "viewAllRecords"],
    }
    assert [each.findtext(f"{NAMESPACE}name") for each in root.findall(f"{NAMESPACE}userPermissions")] == [
        "ApiEnabled",
        "ViewRoles",
        "ViewSetup",
    ]
    assert {each.findtext(f"{NAMESPACE}enabled") for each in root.findall(f"{NAMESPACE}userPermissions")} == {"true"}


def test_the_frame_appends_the_record_to_its_address_and_opens_the_templates_by_default(files: dict[str, str]) -> None:
    assert files["aura/InfobipFrame/InfobipFrame.cmp"] == (
        '<aura:component implements="flexipage:availableForAllPageTypes,force:hasRecordId" access="global">\n'
        '    <aura:attribute name="recordId" type="String"/>\n'
        '    <aura:attribute name="src" type="String" default="https://connector.example.com/e/Zt4k9Qw2/templates"/>\n'
        '    <aura:attribute name="height" type="String" default="1000px"/>\n'
        '    <iframe src="{!v.src + \'?id=\' + v.recordId}" width="100%" height="{!v.height}"'
        ' style="border:0" title="Infobip"/>\n'
        "</aura:component>\n"
    )
    assert files["aura/InfobipFrame/InfobipFrame.design"] == (
        '<design:component label="Infobip iFrame">\n'
        '    <design:attribute name="src" label="Src URL"'
        ' default="https://connector.example.com/e/Zt4k9Qw2/templates"'
        ' description="Address shown in the connector\'s wizard"/>\n'
        '    <design:attribute name="height" label="Height" default="1000px"/>\n'
        "</design:component>\n"
    )


@pytest.mark.parametrize("part", Part)
def test_each_deploy_names_what_it_holds(part: Part, org: Settings) -> None:
    inside = unpacked(metadata_zip(org, [part]))
    assert members(inside.pop("package.xml")) == MANIFESTS[part]
    ours = [each for each in components(org) if each.part is part]
    assert {path for path in inside if path not in BUNDLE} == {
        each.path for each in ours if each.type != "AuraDefinitionBundle"
    }
    assert [path for path in inside if path in BUNDLE] == (sorted(BUNDLE) if part is Part.CONSOLE_AND_ROUTING else [])


def test_the_deploys_come_in_an_order_in_which_each_finds_what_it_needs(org: Settings) -> None:
    assert list(Part) == list(MANIFESTS)
    parts = {each.name: list(Part).index(each.part) for each in components(org)}
    needs = {  # what refers to what, from the files
        "ExtlClntAppOauthConfigurablePolicies:Infobip_BYOC_oauthPlcy": [
            "PermissionSet:Infobip_Connector",
            "PermissionSet:Infobip_Agent",
            "PermissionSet:Infobip_Admin",
        ],
        "ConversationChannelDefinition:Infobip_WhatsApp": [
            "ConversationVendorInfo:Infobip",
            "CustomObject:Infobip_Event__e",
            "ExternalClientApplication:Infobip_BYOC",
        ],
        "PermissionSet:Infobip_Connector": ["CustomObject:Infobip_Event__e"],
        "PermissionSet:Infobip_Presence": ["ServicePresenceStatus:Infobip_Messaging_Online"],
        "PermissionSet:Infobip_Configuration": ["CustomTab:Infobip_BYOC_Configuration"],
        "CustomTab:Infobip_BYOC_Configuration": ["FlexiPage:Infobip_BYOC_Configuration"],
        "FlexiPage:Infobip_BYOC_Configuration": ["AuraDefinitionBundle:InfobipFrame"],
        "Queue:Infobip_Messaging": ["QueueRoutingConfig:Infobip_Routing"],
        "Flow:Infobip_Route_Session": ["Queue:Infobip_Messaging"],
    }
    listed = list(parts)
    for component, needed in needs.items():
        for other in needed:
            assert parts[other] <= parts[component] and listed.index(other) < listed.index(component)


def test_no_permission_set_is_in_two_deploys(org: Settings) -> None:
    names = [each.full_name for each in components(org) if each.type == "PermissionSet"]
    assert len(set(names)) == len(names) == 5  # a deploy replaces the whole set


def test_the_project_form_holds_the_same_components(org: Settings, files: dict[str, str]) -> None:
    project = unpacked(source_zip(org))
    below = {
        path.removeprefix("force-app/main/default/"): text for path, text in project.items() if path.startswith("force")
    }
    event = "objects/Infobip_Event__e"
    apart = {
        f"{event}/Infobip_Event__e.object-meta.xml",
        f"{event}/fields/EventType__c.field-meta.xml",
        f"{event}/fields/Payload__c.field-meta.xml",
    }
    whole = set(files) - {"package.xml", "objects/Infobip_Event__e.object"} - BUNDLE
    assert set(below) == {f"{path}-meta.xml" for path in whole} | BUNDLE | apart
    assert all(below[f"{path}-meta.xml"] == files[path] for path in whole)
    assert all(below[path] == files[path] for path in BUNDLE)

    assert set(project) - {f"force-app/main/default/{path}" for path in below} == {
        "README.md",
        "sfdx-project.json",
        "manifest/package.xml",
        "manifest/1-event-and-permissions.xml",
        "manifest/2-app.xml",
        "manifest/3-channel.xml",
        "manifest/4-console-and-routing.xml",
    }
    assert project["manifest/package.xml"] == files["package.xml"]
    for number, part in enumerate(MANIFESTS, 1):
        assert members(project[f"manifest/{number}-{part}.xml"]) == MANIFESTS[part]
    assert json.loads(project["sfdx-project.json"]) == {
        "packageDirectories": [{"path": "force-app", "default": True}],
        "namespace": "",
        "sfdcLoginUrl": "https://acme.my.salesforce.com",
        "sourceApiVersion": "67.0",
    }


def test_the_project_form_gives_the_event_and_its_fields_files_of_their_own(org: Settings) -> None:
    project = unpacked(source_zip(org))
    folder = "force-app/main/default/objects/Infobip_Event__e"
    assert outlined(project[f"{folder}/Infobip_Event__e.object-meta.xml"]).split("\n") == [
        "  CustomObject",
        "    deploymentStatus Deployed",
        "    eventType HighVolume",
        "    label Infobip Event",
        "    pluralLabel Infobip Events",
        "    publishBehavior PublishAfterCommit",
    ]
    assert outlined(project[f"{folder}/fields/EventType__c.field-meta.xml"]).split("\n") == [
        "  CustomField",
        "    fullName EventType__c",
        "    label EventType",
        "    length 255",
        "    required false",
        "    type Text",
        "    unique false",
    ]
    assert outlined(project[f"{folder}/fields/Payload__c.field-meta.xml"]).split("\n") == [
        "  CustomField",
        "    fullName Payload__c",
        "    label Payload",
        "    length 131072",
        "    type LongTextArea",
        "    visibleLines 3",
    ]


def test_the_readme_has_the_commands_for_this_org(org: Settings) -> None:
    readme = unpacked(source_zip(org))["README.md"]
    commands = [line.strip() for line in readme.split("\n") if line.startswith("       sf ")]
    assert commands == [
        "sf org login web --alias infobip --instance-url https://acme.my.salesforce.com",
        "sf project deploy start --manifest manifest/package.xml --target-org infobip",
        "sf org assign permset --name Infobip_Connector --on-behalf-of byoc@acme.example --target-org infobip",
        "sf org assign permset --name Infobip_Admin --name Infobip_Configuration --target-org infobip",
    ]
    for number, part in enumerate(Part, 1):
        command = f"sf project deploy start --target-org infobip --manifest manifest/{number}-{part}.xml"
        assert f"{number}. {part.heading}: `{command}`" in readme
    assert "Update Records" in readme and "Get Records" in readme  # why the flow is shorter than the guide's


def test_a_command_of_the_readme_takes_a_strange_username_as_one_word(org: Settings) -> None:
    strange = "o'byoc&$(id)@acme.example"
    with pytest.raises(ValueError, match="integration_username"):
        replace(org, integration_username=strange)
    readme = unpacked(source_zip(replace(org, integration_username="a|b&c@acme.example")))["README.md"]
    command = next(line for line in readme.split("\n") if "--on-behalf-of" in line)
    assert " --on-behalf-of 'a|b&c@acme.example' " in command


def test_capitals_stay_as_salesforce_has_them(org: Settings) -> None:
    for names in (unpacked(metadata_zip(org, [Part.CHANNEL])), unpacked(source_zip(org))):
        assert any("ConversationVendorInformation/Infobip.ConversationVendorInformation" in name for name in names)
        assert any(
            "conversationChannelDefinitions/Infobip_WhatsApp.ConversationChannelDefinition" in name for name in names
        )


def test_every_file_is_well_formed_and_filled_in(org: Settings) -> None:
    for data in (metadata_zip(org, list(Part)), source_zip(org), undo_zip(org, [each.name for each in components(org)])):
        for name, text in unpacked(data).items():
            assert "${" not in text and "$$" not in text, name
            if not name.endswith((".md", ".json")):
                expat.ParserCreate().Parse(text, True)


def test_a_hostile_label_stays_text(org: Settings) -> None:
    hostile = replace(org, label='Ben & "Jerry" <routingOwner>Partner</routingOwner> ${event}')
    files = unpacked(metadata_zip(hostile, list(Part)))
    definition = files["conversationChannelDefinitions/Infobip_WhatsApp.ConversationChannelDefinition"]
    outline = documented()["conversationChannelDefinitions/Infobip_WhatsApp.ConversationChannelDefinition"]
    assert outlined(definition) == outline.replace("masterLabel Infobip WhatsApp", f"masterLabel {hostile.label}")
    assert "&amp;" in definition and "&lt;routingOwner&gt;" in definition and "&quot;" in definition


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("public_url", "http://connector.example.com"),
        ("public_url", 'https://connector.example.com/"/>'),
        ("frame_url", "https://connector.example.com/e/Zt4k9Qw2/?k=1"),
        ("frame_url", "https://connector.example.com/e/Zt4k9Qw2"),
        ("org_url", "https://acme.my.salesforce.com --json; id"),
        ("contact_email", "admin"),
        ("app_name", "../Infobip_BYOC"),
        ("app_name", "Acme_BYOC"),
        ("event", "Infobip_Event"),
        ("event", "Infobip/Event__e"),
        ("channel_definition", "Infobip WhatsApp"),
        ("label", " "),
        ("label", "Whats\x00App"),
        ("certificate_pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ],
)
def test_what_cannot_be_used_is_refused(org: Settings, field: str, value: str) -> None:
    changed: dict[str, Any] = {field: value}
    with pytest.raises(ValueError):
        replace(org, **changed)


def test_the_demo_may_run_on_this_machine_without_https(org: Settings) -> None:
    local = replace(org, public_url="http://localhost:8000", frame_url="http://localhost:8000/e/Zt4k9Qw2/")
    files = unpacked(metadata_zip(local, list(Part)))
    assert "<endpointUrl>http://localhost:8000<" in files["cspTrustedSites/Infobip_Connector.cspTrustedSite"]


def test_a_private_key_never_becomes_a_certificate(org: Settings, private_key: str) -> None:
    with pytest.raises(ValueError):
        replace(org, certificate_pem=private_key)


def test_the_certificate_has_neither_armour_nor_line_breaks(org: Settings) -> None:
    file = unpacked(metadata_zip(org, [Part.APP]))["extlClntAppGlobalOauthSets/Infobip_BYOC_glbl.ecaGlblOauth"]
    found = re.search(r"<certificate>(.*?)</certificate>", file, re.DOTALL)
    assert found and re.fullmatch(r"MII[A-Za-z0-9+/]+={0,2}", found[1])


def test_other_names_go_into_paths_manifests_and_files(org: Settings) -> None:
    other = replace(org, app_name="Wa_Link", event="Wa_Line__e", channel_definition="Wa_Chat", label="Chat")
    files = unpacked(metadata_zip(other, list(Part)))
    text = "\n".join([*files, *files.values()])
    for gone in (
        "Infobip_BYOC.",
        "Infobip_BYOC_glbl",
        "Infobip_BYOC_oauth",
        "Infobip_BYOC_plcy",
        "Infobip_Event",
        "Infobip_WhatsApp",
    ):
        assert gone not in text
    assert members(files["package.xml"])["ExtlClntAppOauthConfigurablePolicies"] == ["Wa_Link_oauthPlcy"]
    assert "<externalClientApplication>Wa_Link<" in files["extlClntAppOauthPolicies/Wa_Link_oauthPlcy.ecaOauthPlcy"]
    assert "<label>Wa Link<" in files["externalClientApps/Wa_Link.eca"]
    assert "<pluralLabel>Wa Lines<" in files["objects/Wa_Line__e.object"]
    definition = files["conversationChannelDefinitions/Wa_Chat.ConversationChannelDefinition"]
    assert "<developerName>Wa_Chat<" in definition and "<customEventTypeField>Wa_Line__e.EventType__c<" in definition


def test_without_vendor_info_neither_the_file_nor_the_mention_is_there(org: Settings) -> None:
    files = unpacked(metadata_zip(replace(org, vendor_info=False), [Part.CHANNEL]))
    path = "conversationChannelDefinitions/Infobip_WhatsApp.ConversationChannelDefinition"
    assert set(files) == {"package.xml", path}
    assert members(files["package.xml"]) == {"ConversationChannelDefinition": ["Infobip_WhatsApp"]}
    assert outlined(files[path]) == documented()[path].replace("    conversationVendorInfo Infobip\n", "")


def test_the_event_fields_can_be_named_without_the_event(org: Settings) -> None:
    files = unpacked(metadata_zip(replace(org, qualified_fields=False), [Part.CHANNEL]))
    path = "conversationChannelDefinitions/Infobip_WhatsApp.ConversationChannelDefinition"
    assert outlined(files[path]) == documented()[path].replace("Field Infobip_Event__e.", "Field ")


def test_the_same_settings_give_the_same_bytes(org: Settings) -> None:
    again = replace(org)
    assert metadata_zip(org, list(Part)) == metadata_zip(again, reversed_parts()) and source_zip(org) == source_zip(again)
    names = [each.name for each in components(org)]
    assert undo_zip(org, names) == undo_zip(again, reversed(names))
    with zipfile.ZipFile(io.BytesIO(source_zip(org))) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def reversed_parts() -> list[Part]:
    return list(reversed(Part))


def test_the_undo_names_every_component_and_what_needs_another_goes_first(org: Settings) -> None:
    files = unpacked(undo_zip(org, [each.name for each in components(org)]))
    assert set(files) == {"package.xml", "destructiveChanges.xml"}
    assert members(files["package.xml"]) == {}
    removed = members(files["destructiveChanges.xml"])
    assert removed == {
        "PresenceUserConfig": ["Infobip_Messaging"],
        "ServicePresenceStatus": ["Infobip_Messaging_Online"],
        "Flow": ["Infobip_Route_Session-1"],
        "Queue": ["Infobip_Messaging"],
        "QueueRoutingConfig": ["Infobip_Routing"],
        "CspTrustedSite": ["Infobip_Connector"],
        "CustomTab": ["Infobip_BYOC_Configuration"],
        "FlexiPage": ["Infobip_BYOC_Configuration"],
        "AuraDefinitionBundle": ["InfobipFrame"],
        "ConversationChannelDefinition": ["Infobip_WhatsApp"],
        "ConversationVendorInfo": ["Infobip"],
        "ExtlClntAppConfigurablePolicies": ["Infobip_BYOC_plcy"],
        "ExtlClntAppOauthConfigurablePolicies": ["Infobip_BYOC_oauthPlcy"],
        "ExtlClntAppOauthSettings": ["Infobip_BYOC_oauth"],
        "ExtlClntAppGlobalOauthSettings": ["Infobip_BYOC_glbl"],
        "ExternalClientApplication": ["Infobip_BYOC"],
        "PermissionSet": [
            "Infobip_Connector",
            "Infobip_Agent",
            "Infobip_Admin",
            "Infobip_Presence",
            "Infobip_Configuration",
        ],
        "CustomObject": ["Infobip_Event__e"],
    }
    order = list(removed)
    for first, then in [
        ("CustomTab", "FlexiPage"),
        ("FlexiPage", "AuraDefinitionBundle"),
        ("Flow", "Queue"),
        ("Queue", "QueueRoutingConfig"),
        ("ConversationChannelDefinition", "ConversationVendorInfo"),
        ("ConversationVendorInfo", "ExternalClientApplication"),
        ("ExtlClntAppOauthConfigurablePolicies", "PermissionSet"),
        ("PermissionSet", "CustomObject"),
    ]:
        assert order.index(first) < order.index(then)


def test_the_undo_removes_only_what_it_is_told(org: Settings) -> None:
    told = ["FlexiPage:Infobip_BYOC_Configuration", "Flow:Infobip_Route_Session", "Settings:OmniChannel"]
    removed = members(unpacked(undo_zip(org, told, flow_versions=(2, 3)))["destructiveChanges.xml"])
    assert removed == {
        "Flow": ["Infobip_Route_Session-2", "Infobip_Route_Session-3"],
        "FlexiPage": ["Infobip_BYOC_Configuration"],
    }
    with pytest.raises(ValueError, match="CustomObject:Account"):
        undo_zip(org, ["CustomObject:Account"])


def test_each_component_says_in_plain_words_what_it_is(org: Settings) -> None:
    ours = components(org)
    event = Component(
        type="CustomObject",
        full_name="Infobip_Event__e",
        part=Part.EVENT_AND_PERMISSIONS,
        summary="Platform event Infobip_Event__e with two fields, which carries what reps write",
        path="objects/Infobip_Event__e.object",
        template="objects/Infobip_Event__e.object",
    )
    assert ours[0] == event
    assert len({each.name for each in ours}) == len({each.summary for each in ours}) == len(ours) == 23
    assert [part.heading for part in Part] == [
        "Event and permissions",
        "External client app",
        "Messaging channel definition",
        "Console page and routing",
    ]


def test_the_messaging_service_is_let_at_the_event_by_one_row_of_its_own(org: Settings) -> None:
    assert package.object_permissions_for_scrt2(org, "0PS5g000000AbCdGAK") == {
        "ParentId": "0PS5g000000AbCdGAK",
        "SobjectType": "Infobip_Event__e",
        "PermissionsRead": True,
        "PermissionsCreate": True,
    }
    assert not any("scrt2" in each.name for each in components(org))


def test_every_file_in_the_folder_is_used(org: Settings) -> None:
    folder = Path(package.__file__).parent / "metadata"
    on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert on_disk == set(unpacked(metadata_zip(org, list(Part)))) - {"package.xml"} | {"README.md"}


@pytest.mark.parametrize(
    ("problem", "component_type", "says"),
    [
        (
            "The external client app configured in your global OAuth Settings doesn't have a valid OAuth settings"
            " configuration",
            "ExtlClntAppGlobalOauthSettings",
            "Install the step “External client app” again as a whole",
        ),
        (
            "INVALID_CROSS_REFERENCE_KEY: invalid cross reference id",
            "ExtlClntAppOauthSettings",
            "names an app that is not there",
        ),
        (
            "In field: permissionSet - no PermissionSet named Infobip_Agent found",
            "ExtlClntAppOauthConfigurablePolicies",
            "“Event and permissions”",
        ),
        ("Not available for deploy for this organization", "ExternalClientApplication", "Opt in to External Client Apps"),
        (
            "You can't deploy the consumer secret in this org",
            "ExtlClntAppGlobalOauthSettings",
            "consumer secrets via Metadata API",
        ),
        ("Not available for deploy for this organization", "ConversationVendorInfo", "Partner Messaging add-on"),
        (
            "Entity type: 'ConversationChannelDefinition' is unknown",
            "ConversationChannelDefinition",
            "Partner Messaging add-on",
        ),
        ("Conversation vendor info can't be set", "ConversationChannelDefinition", "without vendor info"),
        (
            "customEventTypeField: Infobip_Event__e.EventType__c isn't valid",
            "ConversationChannelDefinition",
            "without the event's name",
        ),
        ("We couldn't find the connected app", "ConversationChannelDefinition", "“External client app” first"),
        ("Not available for deploy for this organization", "ServicePresenceStatus", "Omni-Channel is off"),
        (
            "In field: channel - no ServiceChannel named sfdc_livemessage found",
            "ServicePresenceStatus",
            "Messaging Settings",
        ),
        ("In field: object - no CustomObject named MessagingSession found", "PermissionSet", "Digital Engagement"),
        ("You do not have permission to activate flows by deployment", "Flow", "Deploy processes and flows as active"),
        ("insufficient access rights on cross-reference id", "Flow", "deactivate “Infobip Route Session”"),
        ("Could not infer a metadata type", "", "--manifest manifest/package.xml"),
        (
            "An object 'Infobip' of type Queue was named in package.xml, but was not found in zipped directory",
            "Queue",
            "Download it again",
        ),
        ("DUPLICATE_DEVELOPER_NAME: duplicate developer name", "FlexiPage", "another component of this name"),
        (
            "INSUFFICIENT_ACCESS: use of the Metadata API requires the Modify Metadata permission",
            "",
            "system administrator",
        ),
        ("UNKNOWN_EXCEPTION: An unexpected error occurred (123-456)", "ExternalClientApplication", "Salesforce Support"),
        ("In field: flexiPage - no FlexiPage named Infobip_X found", "CustomTab", "It needs “Infobip_X” (FlexiPage)"),
        ("not available for deploy", "CustomField", "not available for deploy"),
        ("  Something quite new  ", "Queue", "Something quite new"),
        ("", "Queue", "gave no reason"),
    ],
)
def test_a_refusal_is_explained(problem: str, component_type: str, says: str) -> None:
    assert says in explain(problem, component_type)
