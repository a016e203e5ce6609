"""Above the waterline: incidents that have been written, read again.

``store``  the directory of incidents: list, find, load      ``text``  an incident as half a page for a person
``incident.schema.json``  what an incident.json holds
"""
