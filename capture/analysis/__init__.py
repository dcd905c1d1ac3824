"""What rules mean, for one packet (``trace``) and for all packets at once (``compiler`` and the modules above it).

::

    diagram <- long_lists                               functions of numbered fields; they know no packet
    model <- meaning, rerouting <- base_chains <- trace one packet, rule by rule, as in a kernel
    long_lists <- space <- chains <- compiler           all packets: rules as a diagram, long lists put aside
             realistic, regions <- effects              which packets two situations treat differently
             effects <- culprits <- judgement           which foreign rule is the reason, what is drift
             realistic, regions <- policy               ``explain``: the fate of every connection, in words
    canonical <- compare, ownership                     rule by rule: what differs, which rules are our own
    cause_text <- causes, envoy                         ``why``: each cause in words, and where it is found
    base_chains <- flow                                 ``watch``: chains and rules as a tree, with counters
"""
