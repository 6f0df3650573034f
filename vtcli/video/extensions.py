"""File extensions of videos and images, in lower case."""

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def has_video_suffix(name: str) -> bool:
    """Whether a file name has the extension of a video, in upper or lower case."""
    return name.casefold().endswith(VIDEO_SUFFIXES)
