"""Random precision as a defense, and what attacks achieve at other bitmaps."""
