"""The experiment of Sak, Senior and Beaufays 2014 on synthetic speech."""
