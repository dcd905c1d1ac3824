"""What rules mean, for one packet (``trace``) and for all packets at once (``compiler`` and the modules above it).

::

    one packet
        meaning <- outcome                              what rules do and test; what becomes of a packet
        rerouting <- base_chains                        chains and routes on a packet's path, in the kernel's order
        outcome, base_chains <- trace                   rule by rule, as in a kernel
        trace <- replies                                the answers to a connection, and whether they are lost
        base_chains <- flow                             ``watch``: chains and rules as a tree, with counters
    all packets
        diagram <- long_lists                           functions of numbered fields; they know no packet
        long_lists <- space <- chains <- compiler       rules as a diagram, long lists put aside
        possible_packets, regions <- explanation        ``explain``: the fate of every connection and why, in words
    two rule sets
        canonical <- compare, ownership                 rule by rule: what differs, which rules are our own
        possible_packets, regions <- effects            which packets two situations treat differently
        effects <- culprits, own_effects                which foreign rule is the reason, what each difference does
        culprits, own_effects <- judgement              what is drift
    why
        captured_pod, cause_text <- pod_causes          facts of the pod; causes in words; those of any connection
        pod_causes <- causes, envoy_listeners           those of one connection, by rules and by the proxy's listeners
        foreign_effects                                 a foreign rule's effect in words
"""
