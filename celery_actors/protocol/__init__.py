"""What travels: small frozen types, their encoding and their signatures."""
