"""What rules mean, for one packet (``trace``) and for all of them at once (``compiler`` and what stands on it).

::

    diagram <- decision_list                            functions of numbered fields; they know no packet
    model <- meaning <- stations <- trace               one packet, walked as a kernel walks it
             space <- compiler                          all packets: rules as a diagram
             realistic, regions <- effects              what two situations do differently, to which packets
"""
