"""Where metrics and pictures go beside the files of a run, one file a tracker."""
