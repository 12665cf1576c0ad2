"""ggdjax beside other tools: the same networks, calibration images and held-out images; one small adapter per tool."""
