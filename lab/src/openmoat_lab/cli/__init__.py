"""The commands `moat lab` and `moat bench`, which `moat` finds as entry points of the group `openmoat.commands`."""
