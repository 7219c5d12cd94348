from bayes_merger.imaging.payload.fields import payload_from_mapping as payload_from_mapping
from bayes_merger.imaging.payload.payload import Payload as Payload
from bayes_merger.imaging.payload.resolving import resolve as resolve
