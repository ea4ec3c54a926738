"""IANA numbers of IKEv2 messages: payloads, exchanges, notifies, protocols, transform types, certificates, configuration."""

from openmoat.net import OpenEnum

__all__ = [
    "FIRST_STATUS_NOTIFY",
    "CertEncoding",
    "ConfigKind",
    "ConfigType",
    "ExchangeType",
    "NotifyType",
    "PayloadType",
    "ProtocolId",
    "TransformType",
    "TsType",
]


class PayloadType(OpenEnum):
    """Next Payload values (RFC 7296 3.2, RFC 7383 2.5)."""

    NONE = 0
    SA = 33
    KE = 34
    ID_I = 35
    ID_R = 36
    CERT = 37
    CERTREQ = 38
    AUTH = 39
    NONCE = 40
    NOTIFY = 41
    DELETE = 42
    VENDOR_ID = 43
    TS_I = 44
    TS_R = 45
    SK = 46
    CP = 47
    EAP = 48
    SKF = 53


class ExchangeType(OpenEnum):
    """Exchange types (RFC 7296 3.1, RFC 9242, RFC 9370)."""

    IKE_SA_INIT = 34
    IKE_AUTH = 35
    CREATE_CHILD_SA = 36
    INFORMATIONAL = 37
    IKE_INTERMEDIATE = 43
    IKE_FOLLOWUP_KE = 44


FIRST_STATUS_NOTIFY = 16384
"""Notify types below are errors, this one and those above report status (RFC 7296 3.10.1)."""


class NotifyType(OpenEnum):
    """Notify message types (RFC 7296 3.10.1 and its extensions)."""

    UNSUPPORTED_CRITICAL_PAYLOAD = 1
    INVALID_IKE_SPI = 4
    INVALID_MAJOR_VERSION = 5
    INVALID_SYNTAX = 7
    INVALID_MESSAGE_ID = 9
    INVALID_SPI = 11
    NO_PROPOSAL_CHOSEN = 14
    INVALID_KE_PAYLOAD = 17
    AUTHENTICATION_FAILED = 24
    SINGLE_PAIR_REQUIRED = 34
    NO_ADDITIONAL_SAS = 35
    INTERNAL_ADDRESS_FAILURE = 36
    FAILED_CP_REQUIRED = 37
    TS_UNACCEPTABLE = 38
    INVALID_SELECTORS = 39
    UNACCEPTABLE_ADDRESSES = 40
    UNEXPECTED_NAT_DETECTED = 41
    TEMPORARY_FAILURE = 43
    CHILD_SA_NOT_FOUND = 44
    STATE_NOT_FOUND = 47

    INITIAL_CONTACT = 16384
    SET_WINDOW_SIZE = 16385
    ADDITIONAL_TS_POSSIBLE = 16386
    IPCOMP_SUPPORTED = 16387
    NAT_DETECTION_SOURCE_IP = 16388
    NAT_DETECTION_DESTINATION_IP = 16389
    COOKIE = 16390
    USE_TRANSPORT_MODE = 16391
    HTTP_CERT_LOOKUP_SUPPORTED = 16392
    REKEY_SA = 16393
    ESP_TFC_PADDING_NOT_SUPPORTED = 16394
    NON_FIRST_FRAGMENTS_ALSO = 16395
    MOBIKE_SUPPORTED = 16396
    ADDITIONAL_IP4_ADDRESS = 16397
    ADDITIONAL_IP6_ADDRESS = 16398
    NO_ADDITIONAL_ADDRESSES = 16399
    UPDATE_SA_ADDRESSES = 16400
    COOKIE2 = 16401
    NO_NATS_ALLOWED = 16402
    MULTIPLE_AUTH_SUPPORTED = 16404
    ANOTHER_AUTH_FOLLOWS = 16405
    REDIRECT_SUPPORTED = 16406
    REDIRECT = 16407
    REDIRECTED_FROM = 16408
    EAP_ONLY_AUTHENTICATION = 16417
    CHILDLESS_IKEV2_SUPPORTED = 16418
    QUICK_CRASH_DETECTION = 16419
    IKEV2_FRAGMENTATION_SUPPORTED = 16430
    SIGNATURE_HASH_ALGORITHMS = 16431
    USE_PPK = 16435
    PPK_IDENTITY = 16436
    NO_PPK_AUTH = 16437
    INTERMEDIATE_EXCHANGE_SUPPORTED = 16438
    ADDITIONAL_KEY_EXCHANGE = 16441
    USE_AGGFRAG = 16442
    SIZE_PROBE = 61_280
    """Of the range for private use: nothing but padding, which its receiver passes over."""

    @property
    def is_error(self) -> bool:
        """Whether it reports an error; unknown ones count by their number (RFC 7296 3.10.1)."""
        return self.value < FIRST_STATUS_NOTIFY


class ProtocolId(OpenEnum):
    """Protocols of proposals, notifies and deletes (RFC 7296 3.3.1)."""

    NONE = 0
    IKE = 1
    AH = 2
    ESP = 3


class TransformType(OpenEnum):
    """Kinds of transform (RFC 7296 3.3.2; RFC 9370 renames type 4)."""

    ENCR = 1
    PRF = 2
    INTEG = 3
    KE = 4
    ESN = 5
    ADDKE1 = 6
    ADDKE2 = 7
    ADDKE3 = 8
    ADDKE4 = 9
    ADDKE5 = 10
    ADDKE6 = 11
    ADDKE7 = 12


class TsType(OpenEnum):
    """Kinds of traffic selector (RFC 7296 3.13.1)."""

    IPV4_ADDR_RANGE = 7
    IPV6_ADDR_RANGE = 8


class CertEncoding(OpenEnum):
    """Encodings of CERT and CERTREQ payloads (RFC 7296 3.6, RFC 7670)."""

    PKCS7 = 1
    X509_SIGNATURE = 4
    CRL = 7
    HASH_URL_X509 = 12
    HASH_URL_BUNDLE = 13
    OCSP = 14
    RAW_PUBLIC_KEY = 15


class ConfigKind(OpenEnum):
    """Kinds of configuration payload (RFC 7296 3.15)."""

    REQUEST = 1
    REPLY = 2
    SET = 3
    ACK = 4


class ConfigType(OpenEnum):
    """Configuration attributes (RFC 7296 3.15.1, RFC 8598)."""

    INTERNAL_IP4_ADDRESS = 1
    INTERNAL_IP4_NETMASK = 2
    INTERNAL_IP4_DNS = 3
    INTERNAL_IP4_NBNS = 4
    INTERNAL_IP4_DHCP = 6
    APPLICATION_VERSION = 7
    INTERNAL_IP6_ADDRESS = 8
    INTERNAL_IP6_DNS = 10
    INTERNAL_IP6_DHCP = 12
    INTERNAL_IP4_SUBNET = 13
    SUPPORTED_ATTRIBUTES = 14
    INTERNAL_IP6_SUBNET = 15
    INTERNAL_DNS_DOMAIN = 25
    INTERNAL_DNSSEC_TA = 26
