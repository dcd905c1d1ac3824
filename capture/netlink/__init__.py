"""Netlink, the little of it that the hot path needs; it knows no rule model.

    attributes   encode and decode type-length-value records
    messages     the message header, acknowledgements, refusals
    sockets      a socket in the current namespace: request, dump, errors
    nfnetlink    netfilter's header, reading nf_tables objects, the generation of the ruleset
    batch        many nf_tables changes as one transaction
    rtnetlink    what the two below share
    interfaces   links and addresses
    routing      policy rules, local routes, route lookups

Import the modules themselves; the package imports none of them, because each costs the cold start.
Every error is one of ``capture.errors``: PrivilegeError for EPERM, UnsupportedError where the kernel lacks
the protocol or family, KernelError with ``errno`` for the rest, all of them beginning with what was tried.
"""
