"""What rules mean, for one packet (``trace``) and for all of them at once (``compiler`` and what stands on it).

::

    diagram <- decision_list                            functions of numbered fields; they know no packet
    model <- meaning <- stations <- trace               one packet, walked as a kernel walks it
    switches <- space <- chains <- compiler             all packets: rules as a diagram, long lists put aside
             realistic, regions, witnesses <- effects   what two situations do differently, to which packets
             effects <- culprits <- judgement           which foreign rule is to blame, what is drift
"""
