"""What a posterior is compared with: decoders as methods, and policies trained in other ways."""
