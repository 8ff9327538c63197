"""What Infobip's codes mean to a rep, and what to do: the words that stand in the conversation.

https://www.infobip.com/docs/essentials/api-essentials/response-status-and-error-codes
"""

_SETUP = "the sender is not set up correctly at Infobip; tell your administrator"
_ACCOUNT = "the Infobip account has a problem (set-up or billing); tell your administrator"
_TEMPLATE = "the template or its values no longer fit; reload the templates and try again"
_FILE = "WhatsApp could not take the file; try a smaller one or another format"
_LATER = "WhatsApp could not take it just now; send it again later"
_OPTED_OUT = "the customer does not want this kind of message"

REASONS = {
    "EC_UNKNOWN_APPLICATION": _SETUP,
    "EC_UNKNOWN_USER": "the number is not on WhatsApp",
    "EC_BLOCKED_USER": "the customer has blocked this number",
    "EC_UNAUTHORIZED_ACCESS": _ACCOUNT,
    "EC_FORBIDDEN_ACCESS": _ACCOUNT,
    "EC_BAD_REQUEST": "WhatsApp refuses the content",
    "EC_INVALID_TEMPLATE_ARGS": _TEMPLATE,
    "EC_INVALID_TEMPLATE": _TEMPLATE,
    "EC_NO_SESSION": "the customer has not written to this number in the last 24 hours; send a template",
    "EC_ACCOUNT_ISSUE": _ACCOUNT,
    "EC_PROVIDER_BILLING_ERROR": _ACCOUNT,
    "EC_DEPLOYMENT_CONFIGURATION_ERROR": _LATER,
    "EC_MEDIA_HOSTING_ERROR": _FILE,
    "EC_MEDIA_UPLOAD_ERROR": _FILE,
    "EC_MEDIA_METADATA_ERROR": _FILE,
    "EC_MEDIA_UNSUPPORTED": _FILE,
    "EC_SPAM_RATE": "WhatsApp limits how much this number may send",
    "EC_TOO_MANY_REQUESTS": _LATER,
    "EC_DEVICE_REPRODUCTION_ERROR": "the customer's app cannot show it",
    "EC_UNSUPPORTED_MOBILE_APP_VERSION": "the customer's app is too old to show it",
    "EC_LIMITED_FUNCTIONALITY": "WhatsApp has restricted this customer or number",
    "EC_NOT_ALLOWED_SENDING_TIME": "it may not be sent at this time of day",
    "EC_MESSAGE_TYPE_EXHAUSTED": "the number has reached WhatsApp's messaging limit",
    "EC_BLOCKED_CONTENT": "WhatsApp refuses the content",
    "EC_TEMPLATE_BLOCKED_BY_USER": _OPTED_OUT,
    "EC_FREQUENCY_CAPPING": "the customer has received too many marketing messages lately",
    "EC_MARKETING_OPT_OUT": _OPTED_OUT,
    "EC_USER_IDENTITY_CHANGED": "the customer's WhatsApp identity changed and must be confirmed",
    "EC_INVALID_WA_FLOW": "the form in it is not valid",
    "EC_SENDER_NOT_REGISTERED": _SETUP,
    "EC_TEMPLATE_NOT_SYNCED": "the template is new; try again in ten minutes",
    "EC_TEMPLATE_NOT_AVAILABLE": "the template is not available yet; try again in ten minutes",
    "EC_PROVIDER_INTERNAL_ERROR": _LATER,
    "EC_PROVIDER_TIMEOUT": _LATER,
    "EC_INTERNAL_ERROR": _LATER,
    "EC_CONFIGURATION_ERROR": _SETUP,
    "EC_TEMPORARY_GATEWAY_ERROR": _LATER,
    "EC_SERVICE_NOT_ACTIVATED": _SETUP,
    "EC_MISSING_SENDER_METADATA": _SETUP,
    "REJECTED_NOT_ENOUGH_CREDITS": _ACCOUNT,
    "REJECTED_DESTINATION_NOT_REGISTERED": "the trial account may write to confirmed numbers only",
    "REJECTED_FLOODING_FILTER": _LATER,
    "EXPIRED_EXPIRED": "the phone could not be reached in time",
}
