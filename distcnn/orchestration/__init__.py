"""Ray: the same training on many workers and nodes. The only room that imports ray."""

from distcnn.collector import spare_imports

# Here, for Ray has its workers import a room of this one before anything else of ours; and each of
# them goes on to import Ray Train, torch and Lightning.
spare_imports()
