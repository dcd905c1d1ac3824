"""What rules mean, for one packet (``trace``) and for all packets at once (``compiler`` and the modules above it).

::

    diagram <- decision_list                            functions of numbered fields; they know no packet
    model <- meaning <- stations <- trace               one packet, rule by rule, as in a kernel
    switches <- space <- chains <- compiler             all packets: rules as a diagram, long lists put aside
             realistic, regions, witnesses <- effects   which packets two situations treat differently
             effects <- culprits <- judgement           which foreign rule is the reason, what is drift
"""
