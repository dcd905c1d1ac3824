"""Netlink, the little of it that the hot path needs; it knows no rule model.

    attributes   encode and decode type-length-value records
    messages     the message header, acknowledgements, refusals
    sockets      a socket in the current namespace: request, dump, errors
    nfnetlink    netfilter's header, reading nf_tables objects, the generation of the ruleset
    batch        many nf_tables changes as one transaction
    rtnetlink    what the two below share
    interfaces   links and addresses
    routing      policy rules, local routes, route lookups

A table with a chain, made in one transaction and read back:

    from capture.netlink.attributes import attribute, decode_fields, decode_text, text
    from capture.netlink.batch import Change, commit
    from capture.netlink.messages import NLM_F_CREATE
    from capture.netlink.nfnetlink import open_netfilter, read_generation, read_objects

    with open_netfilter() as netfilter:
        generation = read_generation(netfilter)
        table = attribute(NFTA_TABLE_NAME, text("demo"))
        chain = attribute(NFTA_CHAIN_TABLE, text("demo")) + attribute(NFTA_CHAIN_NAME, text("first"))
        commit(
            netfilter,
            [
                Change(NFT_MSG_NEWTABLE, NFPROTO_INET, table, "create table inet demo", NLM_F_CREATE),
                Change(NFT_MSG_NEWCHAIN, NFPROTO_INET, chain, "create chain first in table inet demo", NLM_F_CREATE),
            ],
            generation,
        )
        for family, attributes in read_objects(netfilter, NFT_MSG_GETCHAIN, NFPROTO_INET, b"", "read chains"):
            print(decode_text(decode_fields(attributes)[NFTA_CHAIN_NAME]))

Import the modules themselves; the package imports none of them, because each costs the cold start.
Every error is one of ``capture.errors``: PrivilegeError for EPERM, UnsupportedError where the kernel lacks
the protocol or family, KernelError with ``errno`` for the rest, all of them beginning with what was tried.
"""
